package network

// Abandon leaves all as a process does that is killed.
func Abandon(n *Network) {
	n.quit()
	n.release.Close()
}
