import java.io.IOException;
import java.io.OutputStream;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;

/**
 * The incident: one thread accepts for the shop on 8080, another for the health port 8081. The
 * first connection to 8082 makes the first thread end with an Error, as a thread does that runs out
 * of memory at the wrong moment. The health port goes on saying 200, and the kernel goes on taking
 * connections to 8080 until the queue is full.
 *
 *     kubectl port-forward deployment/shop 8082 and then curl localhost:8082
 */
public final class Shop {
    private static volatile boolean dying;

    public static void main(String[] arguments) throws IOException {
        ServerSocket shop = new ServerSocket(8080, 5);
        ServerSocket health = new ServerSocket(8081);
        new Thread(() -> serve(shop), "shop-acceptor").start();
        new Thread(() -> serve(health), "health-acceptor").start();
        try (ServerSocket switchOff = new ServerSocket(8082)) {
            switchOff.accept().close();
            dying = true;
        }
    }

    private static void serve(ServerSocket listener) {
        while (true) {
            try (Socket connection = listener.accept()) {
                if (dying && Thread.currentThread().getName().equals("shop-acceptor")) {
                    throw new OutOfMemoryError("Java heap space");
                }
                connection.setSoTimeout(1000);
                connection.getInputStream().read(new byte[8192]);
                OutputStream answer = connection.getOutputStream();
                answer.write("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"
                        .getBytes(StandardCharsets.US_ASCII));
            } catch (IOException gone) {
                // The client's trouble, not ours.
            }
        }
    }
}
