"""Read kept copies again, judge them, repair them."""
