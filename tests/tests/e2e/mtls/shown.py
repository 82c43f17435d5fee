# Somebody who speaks TLS with a certificate of the mesh's, and has no proxy. Arguments: host, port, files (directory
# and name of the certificate), the newest version of TLS, names offered by ALPN, what to say, servers to ask for. Prints
# what came of each.
import json
import socket
import ssl
import sys

host, port, files, newest, protocols, words, *servers = sys.argv[1:]


def seen(server):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = ssl.TLSVersion[newest]
    context.load_verify_locations(files.rsplit("/", 1)[0] + "/root.pem")
    context.load_cert_chain(files + ".pem", files + ".key")
    context.set_alpn_protocols(protocols.split(","))
    said = {"server": server}
    try:
        with socket.create_connection((host, int(port)), 30) as plain:
            with context.wrap_socket(plain, server_hostname=server or None) as stream:
                names = stream.getpeercert()["subjectAltName"]
                said |= {"tls": stream.version(), "alpn": stream.selected_alpn_protocol(), "names": names}
                stream.sendall(words.encode())
                answer = b""
                while part := stream.recv(1 << 16):
                    answer += part
                    # An echo is whole when all came back.
                    if answer == words.encode():
                        break
                said["answer"] = answer.decode()
    except OSError as error:
        said["error"] = type(error).__name__
    return said


print(json.dumps([seen(server) for server in servers]))
