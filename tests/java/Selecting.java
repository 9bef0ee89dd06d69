import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;

/**
 * Accepts with a NIO selector, or with a blocking ServerSocketChannel, in a thread that ends with
 * an Error on "break"; the channel stays open. Arguments: "selector" or "channel", port.
 */
public final class Selecting {
    private static volatile boolean dying;

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[1]);
        ServerSocketChannel channel = ServerSocketChannel.open();
        channel.bind(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), port), 16);
        Thread acceptor = new Thread(() -> {
            try {
                if (arguments[0].equals("selector")) {
                    select(channel);
                } else {
                    accept(channel);
                }
            } catch (java.io.IOException error) {
                throw new java.io.UncheckedIOException(error);
            }
        }, "nio-acceptor");
        acceptor.setUncaughtExceptionHandler((thread, error) -> { });
        acceptor.start();
        System.out.println("ready");
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = commands.readLine()) != null; ) {
            dying = true;
            new Socket(InetAddress.getLoopbackAddress(), port).close();
            acceptor.join();
            System.out.println(line);
        }
    }

    private static void select(ServerSocketChannel channel) throws java.io.IOException {
        Selector selector = Selector.open();
        channel.configureBlocking(false);
        channel.register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            selector.selectedKeys().clear();
            SocketChannel connection = channel.accept();
            if (connection != null) {
                finish(connection);
            }
        }
    }

    private static void accept(ServerSocketChannel channel) throws java.io.IOException {
        while (true) {
            finish(channel.accept());
        }
    }

    private static void finish(SocketChannel connection) throws java.io.IOException {
        connection.close();
        if (dying) {
            throw new OutOfMemoryError("unable to create native thread");
        }
    }
}
