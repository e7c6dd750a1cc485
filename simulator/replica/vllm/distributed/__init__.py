"""This package carries messages between the engine core and its workers."""
