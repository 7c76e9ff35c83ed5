"""Loops over plain float32 arrays, for nodes that run on arrays: functions of numbers, softmax, batched products."""
