"""SONA: what a user's finished runs teach recall. Plain synchronous code on numpy; knows neither files nor actors."""
