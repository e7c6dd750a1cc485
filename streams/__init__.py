"""The stream workers: Kafka in; judged batches, alerts, ClickHouse rows and webhooks out."""
