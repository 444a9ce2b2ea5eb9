"""How the toy's base model is made from nothing."""
