"""`gregor doctor`: named checks of a host, its settings, Redis, the deployment and the providers."""
