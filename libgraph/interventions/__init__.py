"""Asking a network: features switched off or turned up, one input, and is the graph faithful?"""
