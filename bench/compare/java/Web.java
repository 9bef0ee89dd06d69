import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import org.apache.catalina.connector.Request;
import org.apache.catalina.connector.Response;
import org.apache.catalina.startup.Tomcat;
import org.apache.catalina.valves.ValveBase;

/**
 * An embedded Tomcat on 8080, which takes 16 connections, each served by a thread, and a management
 * port on 8081 with a thread of its own: DIRECTORY. /stuck takes a lock and keeps it.
 */
public class Web {
    private static final Object LOCK = new Object();

    public static void main(String[] words) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(words[0]);
        tomcat.setPort(8080);
        var connector = tomcat.getConnector();
        connector.setProperty("maxConnections", "16");
        connector.setProperty("maxThreads", "16");
        connector.setProperty("acceptCount", "50");
        connector.setProperty("connectionTimeout", "600000");
        tomcat.getHost();
        tomcat.getEngine().getPipeline().addValve(new Page());
        tomcat.start();

        HttpServer health = HttpServer.create(new InetSocketAddress("127.0.0.1", 8081), 0);
        health.createContext("/", exchange -> {
            exchange.sendResponseHeaders(200, -1);
            exchange.close();
        });
        health.start();
        tomcat.getServer().await();
    }

    private static final class Page extends ValveBase {
        @Override
        public void invoke(Request request, Response response) throws IOException {
            if (request.getRequestURI().equals("/stuck")) {
                synchronized (LOCK) {
                    try {
                        Thread.sleep(Long.MAX_VALUE);
                    } catch (InterruptedException end) {
                        return;
                    }
                }
            }
            response.setHeader("Connection", "close");
            response.getWriter().print("fine");
        }
    }
}
