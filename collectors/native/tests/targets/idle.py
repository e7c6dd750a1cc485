"""A Python program that is no engine."""

import time

print("ready", flush=True)
while True:
    time.sleep(0.01)
