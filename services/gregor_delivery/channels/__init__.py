"""The ways out, one module a provider, all behind `contract.DeliveryChannel`."""
