"""Agendas, the delivery ledger, dead states and delivery queues in Redis."""
