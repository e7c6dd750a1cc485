"""The roles of a stream worker, one file each: what it reads, and what it does with it."""
