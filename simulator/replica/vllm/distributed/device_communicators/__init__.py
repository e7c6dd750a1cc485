"""This package holds the message queue between the engine core and its workers."""
