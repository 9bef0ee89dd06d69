import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import org.apache.catalina.startup.Tomcat;

/** One page of an embedded Tomcat: DIRECTORY. */
public class TomcatPage {
    public static void main(String[] words) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(words[0]);
        tomcat.setPort(8080);
        tomcat.getConnector();
        var context = tomcat.addContext("", words[0]);
        Tomcat.addServlet(context, "page", new HttpServlet() {
            @Override
            protected void doGet(HttpServletRequest request, HttpServletResponse response)
                    throws IOException {
                response.getWriter().print("fine");
            }
        });
        context.addServletMappingDecoded("/*", "page");
        tomcat.start();
        tomcat.getServer().await();
    }
}
