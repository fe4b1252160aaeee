//! A port of this machine, reserved for the test also while no process listens on
//! it.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// Bound, and never listening: connections are refused, the system assigns the port
/// to no other process, and a listener that requests this port can open and close.
pub struct Port {
    socket: TcpSocket,
}

impl Port {
    pub fn hold() -> Port {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        // Not before `bind`: the system may assign a port in use to a socket with
        // SO_REUSEADDR.
        socket.set_reuseaddr(true).unwrap();
        Port { socket }
    }

    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }
}

/// Tests of the port itself.
mod tests {
    use std::io::ErrorKind;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn held_port_stays_reserved_and_refuses_connections_between_listeners() {
        let port = Port::hold();
        for _ in 0..2 {
            let other = TcpSocket::new_v4().unwrap();
            assert_eq!(other.bind(port.addr()).unwrap_err().kind(), ErrorKind::AddrInUse);
            let refusal = TcpStream::connect(port.addr()).await.unwrap_err();
            assert_eq!(refusal.kind(), ErrorKind::ConnectionRefused);
            let listener = TcpListener::bind(port.addr()).await.unwrap();
            tokio::try_join!(TcpStream::connect(port.addr()), listener.accept()).unwrap();
        }
    }
}
