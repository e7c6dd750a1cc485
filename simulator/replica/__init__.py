"""The replica is a set of real processes that looks to an observer like vLLM 0.32."""
