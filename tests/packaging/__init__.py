"""The built wheel, installed in fresh environments outside the checkout."""
