"""Jobs: long work for many users, in steps that any process can continue.

``runner`` claims a job and executes its steps. ``kinds`` is the table of all kinds; the steps of a kind have a module.
"""
