"""The parts that all HTTP ports share: middleware, request parsing, limits, problem responses, probes and readiness."""
