"""The run loop: a whole plan, as a table of integers, executed in one call without the GIL."""
