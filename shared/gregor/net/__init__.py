"""Network safety: the SSRF guard, allowed web origins, and the texts of operating system errors."""
