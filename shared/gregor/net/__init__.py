"""Network safety: the guard against requests into our own network, origins of web pages, texts of OS errors."""
