//! A port of this machine that is the test's own, also while nobody listens.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// Bound, and never listening: whoever connects is refused, the system gives the
/// port to nobody else, and a listener that says which one it wants may come and
/// go.
pub struct Port {
    socket: TcpSocket,
}

impl Port {
    pub fn hold() -> Port {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        // Only now: a socket that shares from the start may be given what another
        // one holds.
        socket.set_reuseaddr(true).unwrap();
        Port { socket }
    }

    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }
}

/// Its own promises.
mod tests {
    use std::io::ErrorKind;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn is_taken_and_refuses_also_between_two_listeners() {
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
