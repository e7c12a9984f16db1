package plan

// Ports of the loopback addresses inside, where the gateway listens for programs
// that know a proxy. They are below 1024: nothing inside may bind those (it has no
// CAP_NET_BIND_SERVICE, and ip_unprivileged_port_start is 1024 in a new network
// namespace, ip_sysctl), so the gateway takes no port from the inside's own servers,
// and none of these can take one from the gateway.
const (
	ProxyHTTPPort  = 1008
	ProxySOCKSPort = 1010
)
