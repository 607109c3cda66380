"""WebMesh: remote calls, streams and topics between synchronous Python services, over WebSockets."""
