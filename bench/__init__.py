"""Measure the whole product beside the tools people would use instead."""
