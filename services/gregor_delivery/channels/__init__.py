"""Delivery channels: one package or module per provider, all behind `contract.DeliveryChannel`."""
