"""Environments: text tasks with verifiers, and control."""
