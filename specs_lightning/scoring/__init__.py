"""Text to right, wrong or unscored: answer formats, quantities, choices, boxes, and how they are compared."""
