"""The canary: a synthetic user that checks a deployment from outside, through the public URLs, every few seconds."""
