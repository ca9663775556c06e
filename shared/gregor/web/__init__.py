"""What every HTTP port of the house does alike: request ids, origins, refusals, bodies, readiness."""
