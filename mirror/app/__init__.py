"""The composition root: builds everything once and runs it."""
