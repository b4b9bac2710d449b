"""Models × policies × tasks on one prefill: cells, journal, run, fidelity, Ray."""
