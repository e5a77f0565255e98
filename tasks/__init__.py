"""fedcore's verbs as Prefect tasks; retries, names and future states live here."""
