"""Jobs: long work for many users, in steps that any process can continue.

``runner`` claims a job and executes its steps. Each kind of job has a module, and is named in ``kinds``.
"""
