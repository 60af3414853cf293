"""SpRe: a second convolution branch at the kernel positions that matter most."""
