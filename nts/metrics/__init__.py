"""Metrics: matches of predictions and ground truth, average precision, LVIS, mIoU, bootstrap intervals."""
