"""Delivery: what state decides to send, sent once through APNs, FCM, Web Push, e-mail or a webhook, and remembered."""
