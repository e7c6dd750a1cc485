"""What makes a fault on a real machine, keeps it for its time, and undoes it whatever happens.

A fault is a plan of `steps` (`base` says what it consists of). `run` is for whoever wants one made:
it starts a `keeper`, which writes each step to the `journal`, does it, starts the `worker`
processes, and has `undo` undo it all.
"""
