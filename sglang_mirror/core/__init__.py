"""The algorithm in plain integers: what every tensor path is tested against.

Standard library only; nothing here knows a model, a socket or a clock.
"""
