"""The one door to what is kept: the contract, and the twins that keep it."""
