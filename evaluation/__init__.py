"""Evaluation: predictions by StreamSession, strict scorers, controls, reports."""
