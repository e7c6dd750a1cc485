"""Pure online learners: no I/O, no clock, no Kafka, no global state."""
