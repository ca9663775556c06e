"""Distributed traces (OpenTelemetry): sampling, spans, and their export to a collector over OTLP/HTTP."""
