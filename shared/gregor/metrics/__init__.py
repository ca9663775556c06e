"""The Prometheus metrics that all services share. Each service adds its own in its ``metrics.py``.

Every label has a small, fixed set of values. A label with user, device or item ids would create millions of series.
"""
