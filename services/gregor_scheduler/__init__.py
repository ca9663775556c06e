"""Executes due work: expiries, reminders, pushes, e-mails, aggregation windows, delayed messages and cleanup.

``due_loop`` finds due work and leases it, ``handlers`` execute it, ``arq_worker`` triggers the loop every second. Any
number of schedulers share the users without leader election.
"""
