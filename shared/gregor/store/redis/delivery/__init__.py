"""Agendas, the delivery ledger, dead letters and delivery queues in Redis."""
