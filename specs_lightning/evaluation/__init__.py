"""Where answers are drawn, judged, kept and counted."""
