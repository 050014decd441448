"""Measures a whole model: functions of the model and a closure, which put everything back."""
