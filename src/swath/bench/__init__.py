"""Suites, protocols, records and statistics: what is known, and how well."""
