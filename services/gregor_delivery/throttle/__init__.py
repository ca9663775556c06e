"""Circuit breakers and rate limits in front of providers and webhook endpoints."""
