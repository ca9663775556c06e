"""Delivery service: sends the scheduler's intents through APNs, FCM, Web Push, e-mail and webhooks."""
